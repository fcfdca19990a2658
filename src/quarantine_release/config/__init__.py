"""How this deployment is set up: its environment, who may call, and which accounts it releases for."""
