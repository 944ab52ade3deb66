// Declarations are in include/CCairn.h.
