"""From a model that goes on with a text to one that answers."""
