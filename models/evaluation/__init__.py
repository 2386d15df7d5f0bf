"""Score models, break their bridges one at a time, and measure what bridges could bring before any is trained."""

import lazy_loader

# Each name is imported when it is first used; `__init__.pyi` lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
