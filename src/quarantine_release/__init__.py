"""Release false positives from Cloudflare Email Security's quarantine: once, on proof, with a trace."""
