"""How fast models run: sessions side by side, in turns, compared in pairs."""
