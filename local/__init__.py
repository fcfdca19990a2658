"""The whole system on one machine: gateway, handler processes, embedded AWS and a simulated Cloudflare."""
