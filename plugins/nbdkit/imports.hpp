#pragma once

#include <span>

namespace blockloom::nbd {

/// A function that the running program takes from a shared library, and what it is to call instead.
struct Import {
  const char* name;
  void* replacement;
  void* original = nullptr;  ///< set by replace_imports
  void** slot = nullptr;     ///< in the program's table; set by replace_imports
};

/// Makes the program's own calls of these functions go to their replacements; the libraries' calls
/// stay as they are. All or none: false where one of them is not imported, or the table has not the
/// expected shape. While the program has one thread.
bool replace_imports(std::span<Import> imports) noexcept;

/// Puts the originals of a successful replace_imports() back. While the program has one thread.
void restore_imports(std::span<const Import> imports) noexcept;

}  // namespace blockloom::nbd
