"""`wgan accept`: what a machine must show before it is trusted with a run. Each stage is a process of its own."""
