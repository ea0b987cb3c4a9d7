"""What is agreed with producers and consumers: events, topics, codes, schemas.

Nothing here speaks to a cluster, and nothing here knows Faust.
"""
