"""The bundled stimuli: 1,392 Noto emoji with their English names (noto.zip), and the script that rebuilds them."""
