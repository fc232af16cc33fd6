"""Classification and segmentation of images."""
