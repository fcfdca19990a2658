"""The only package that calls Cloudflare, and what Cloudflare's answers prove."""
