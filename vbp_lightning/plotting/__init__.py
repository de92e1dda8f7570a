"""Panels and figures: arrays in, uint8 pictures and matplotlib figures out."""
