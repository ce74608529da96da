/* Preloaded into nbdkit, after the sanitizer's runtime: the plugin stays loaded until the process
 * has ended, so that a report can still name its functions; and what nbdkit starts (--run) does
 * not inherit the runtime. */
#include <stdlib.h>

int dlclose(void *handle);

int dlclose(void *handle) {
  (void)handle;
  return 0;
}

__attribute__((constructor)) static void not_for_children(void) {
  unsetenv("LD_PRELOAD");
}
