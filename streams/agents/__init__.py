"""The agents: what happens to a payment, a click and a label."""
