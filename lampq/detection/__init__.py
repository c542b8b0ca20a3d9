"""What detection adds: images of different sizes, instances, and the way into mmdet."""
