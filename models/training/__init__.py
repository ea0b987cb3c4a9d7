"""Training on the simulator or on given columns, up to the artifact and its model card.

Networks are in `models.fraud` and `models.recommender`; nothing here runs in a worker.
"""
