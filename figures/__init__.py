"""Draw labelled results as matplotlib figures. Nothing here calls `plt.show`, and only the explorer measures."""

import lazy_loader

# Each name is imported when it is first used; `__init__.pyi` lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
