"""Number formats: tensor -> integer codes and back."""
