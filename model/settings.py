"""The place under which networks of one's own import `OwnSettings`."""

from model.networks.settings import OwnSettings as OwnSettings
