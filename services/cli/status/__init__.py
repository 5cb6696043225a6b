"""`wirespan status`: how the pipeline is, as far as the bus knows."""
