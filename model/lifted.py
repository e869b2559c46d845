"""The place under which networks of one's own import `OwnNetwork`."""

from model.networks.lifted import OwnNetwork as OwnNetwork
