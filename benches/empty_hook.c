/* The least that a native audit hook can cost: installed with ctypes.PyDLL, looks at nothing, allows everything.
   Declared by hand, so that no Python headers are needed. */

int PySys_AddAuditHook(int (*hook)(const char *, void *, void *), void *data);

static int look_away(const char *event, void *args, void *data) {
    (void)event, (void)args, (void)data;
    return 0;
}

int install(void) { return PySys_AddAuditHook(look_away, 0); }
