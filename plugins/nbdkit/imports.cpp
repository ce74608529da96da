#include "plugins/nbdkit/imports.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace blockloom::nbd {
namespace {

/// The parts of a program's dynamic section that lead to its imports.
struct Dynamic {
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
  const ElfW(Rela) * plt = nullptr;
  std::size_t plt_bytes = 0;
  const ElfW(Rela) * rest = nullptr;
  std::size_t rest_bytes = 0;
};

Dynamic read_dynamic(const dl_phdr_info& info) noexcept {
  Dynamic found;
  const ElfW(Dyn)* entry = nullptr;
  for (int i = 0; i < info.dlpi_phnum; ++i)
    if (info.dlpi_phdr[i].p_type == PT_DYNAMIC)
      entry = reinterpret_cast<const ElfW(Dyn)*>(info.dlpi_addr + info.dlpi_phdr[i].p_vaddr);
  bool rela = true;
  for (; entry && entry->d_tag != DT_NULL; ++entry) {
    const auto pointer = entry->d_un.d_ptr;  // ld.so has made these absolute
    if (entry->d_tag == DT_SYMTAB) found.symbols = reinterpret_cast<const ElfW(Sym)*>(pointer);
    if (entry->d_tag == DT_STRTAB) found.names = reinterpret_cast<const char*>(pointer);
    if (entry->d_tag == DT_JMPREL) found.plt = reinterpret_cast<const ElfW(Rela)*>(pointer);
    if (entry->d_tag == DT_PLTRELSZ) found.plt_bytes = entry->d_un.d_val;
    if (entry->d_tag == DT_RELA) found.rest = reinterpret_cast<const ElfW(Rela)*>(pointer);
    if (entry->d_tag == DT_RELASZ) found.rest_bytes = entry->d_un.d_val;
    if (entry->d_tag == DT_PLTREL) rela = entry->d_un.d_val == DT_RELA;
  }
  return rela && found.symbols && found.names ? found : Dynamic{};
}

#if __ELF_NATIVE_CLASS == 64
constexpr std::size_t symbol_of(ElfW(Xword) info) noexcept {
  return ELF64_R_SYM(info);
}
#else
constexpr std::size_t symbol_of(ElfW(Word) info) noexcept {
  return ELF32_R_SYM(info);
}
#endif

void find_in(const ElfW(Rela) * table, std::size_t bytes, const Dynamic& dynamic, ElfW(Addr) base,
             std::span<Import> wanted) noexcept {
  for (std::size_t i = 0; table && i < bytes / sizeof *table; ++i) {
    const std::size_t symbol = symbol_of(table[i].r_info);
    if (symbol == 0) continue;
    const char* name = dynamic.names + dynamic.symbols[symbol].st_name;
    for (Import& import : wanted)
      if (std::strcmp(name, import.name) == 0)
        import.slot = reinterpret_cast<void**>(base + table[i].r_offset);
  }
}

/// dl_iterate_phdr's first visit is the program itself.
int find_slots(dl_phdr_info* info, std::size_t, void* wanted) noexcept {
  const auto list = *static_cast<std::span<Import>*>(wanted);
  const Dynamic dynamic = read_dynamic(*info);
  find_in(dynamic.rest, dynamic.rest_bytes, dynamic, info->dlpi_addr, list);
  find_in(dynamic.plt, dynamic.plt_bytes, dynamic, info->dlpi_addr, list);
  return 1;
}

/// Writes an import, which a program linked with -z now has made read-only. It stays writable:
/// what it was before cannot be asked, and its neighbours may need to be.
bool write_slot(void** slot, void* function) noexcept {
  const auto page_size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto page = reinterpret_cast<std::uintptr_t>(slot) & ~(page_size - 1);
  if (::mprotect(reinterpret_cast<void*>(page), page_size, PROT_READ | PROT_WRITE) != 0)
    return false;
  std::atomic_ref<void*>(*slot).store(function);
  return true;
}

}  // namespace

bool replace_imports(std::span<Import> imports) noexcept {
  ::dl_iterate_phdr(find_slots, &imports);
  for (const Import& import : imports)
    if (!import.slot) return false;
  for (std::size_t i = 0; i < imports.size(); ++i) {
    imports[i].original = std::atomic_ref<void*>(*imports[i].slot).load();
    if (write_slot(imports[i].slot, imports[i].replacement)) continue;
    restore_imports(imports.first(i));
    return false;
  }
  return true;
}

void restore_imports(std::span<const Import> imports) noexcept {
  for (const Import& import : imports)
    write_slot(import.slot, import.original);
}

}  // namespace blockloom::nbd
