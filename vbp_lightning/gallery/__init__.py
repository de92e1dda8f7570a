"""The gallery: every tile, its saliency maps and its label on HTML pages that take corrections."""
