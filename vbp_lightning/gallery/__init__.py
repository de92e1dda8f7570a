"""The gallery: every tile, its saliency maps and its label on one HTML page that takes corrections."""
