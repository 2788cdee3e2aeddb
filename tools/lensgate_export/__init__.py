"""Brings models into Lensgate: from Keras, torchvision, timm, a SavedModel or TFLite to a version's folder.

Run by whoever develops a model, never by the gateway. `tools/models.sh` fetches what a command needs and starts it;
docs/models.md says how each is used.
"""
