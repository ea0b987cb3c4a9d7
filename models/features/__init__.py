"""Feature definitions, histories and their kernels, shared by training and serving.

No model is known here; how histories reach Kafka and come back is in `streams.state`.
"""
