"""Turns resources and measurements into what a terminal shows. Pure: values in, rich renderables out."""
