/* Preloaded into nbdkit, after the sanitizer's runtime: the plugin stays loaded until the process
 * has ended, so that a report can still name its functions; and what nbdkit starts (--run) does
 * not inherit the runtime. */
#include <locale.h>
#include <stdlib.h>

int dlclose(void *handle);
void freelocale(locale_t locale);

int dlclose(void *handle) {
  (void)handle;
  return 0;
}

/* Under the preloaded runtime glibc's lock of the locales counts one reader too few for each
 * strerror(), and at the process's end p11-kit's destructor waits for it in here, for ever. */
void freelocale(locale_t locale) {
  (void)locale;
}

__attribute__((constructor)) static void not_for_children(void) {
  unsetenv("LD_PRELOAD");
}
