"""Small networks for 28x28 images of one channel and ten classes, as plain torch modules."""
