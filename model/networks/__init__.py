"""The networks and their settings: the contract, M3H, FlexCare, and networks of one's own."""
