"""Training: LoRAs by DreamBooth, the hypernetwork by Algorithm 1, and the joint baseline."""
