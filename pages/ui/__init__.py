"""What pages share: page frame, model picker, cached calls, charts, pictures, the map component."""
