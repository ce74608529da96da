// What happens to a dump when it is over: digest, texts, hook.
#include "server/dump/aftermath.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "proto/dump/panic_text.hpp"
#include "proto/dump/stream.hpp"
#include "server/base/log.hpp"
#include "server/dump/child.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t step = 1u << 20;
constexpr const char* makedumpfile = "/usr/bin/makedumpfile";

class Sum {
 public:
  Sum() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    good_ = context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
  }
  void add(ByteView bytes) {
    good_ = good_ && EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
  }
  std::string finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
    unsigned size = 0;
    if (!good_ || EVP_DigestFinal_ex(context_.get(), bytes.data(), &size) != 1) return {};
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    to_hex(bytes.data(), size, hex);
    return hex;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
  bool good_ = false;
};

/// The digest that a stream's END has, over the stored bytes again.
class ChunkSum {
 public:
  explicit ChunkSum(std::uint32_t chunk) : chunk_(chunk) {}
  void add(ByteView bytes) {
    while (!bytes.empty()) {
      const std::size_t n = std::min<std::size_t>(bytes.size(), chunk_ - have_);
      crc_ = crc32c(crc_, bytes.data(), n);
      have_ += static_cast<std::uint32_t>(n);
      bytes = bytes.subspan(n);
      if (have_ == chunk_) close();
    }
  }
  std::string finish(std::uint64_t length) {
    if (have_ > 0) close();
    const auto digest = digest_.finish(length);
    char hex[2 * Sha256::size + 1];
    to_hex(digest.data(), digest.size(), hex);
    return hex;
  }

 private:
  void close() {
    digest_.add(crc_);
    crc_ = 0;
    have_ = 0;
  }
  const std::uint32_t chunk_;
  StreamDigest digest_;
  std::uint32_t crc_ = 0, have_ = 0;
};

std::string image_path(Store& store, const Record& record) {
  auto runs = store.back_end().runs(record.id, record.image, record.bytes);
  // Of an image on a device there is none.
  const bool file = runs && runs->size() == 1 && runs->front().uri.starts_with('/');
  return file ? runs->front().uri : std::string();
}

}  // namespace

Result<Verdict> verify_image(Store& store, const Record& record,
                             const std::function<bool()>& stop) {
  auto reader = store.back_end().open_image(record.id, record.image);
  if (!reader) return reader.error();
  Sum sum;
  const bool chunked = !record.stream_digest.empty() && record.chunk > 0 &&
                       record.kind != "flattened" && record.image != "";
  ChunkSum chunks(record.chunk == 0 ? 1 : record.chunk);
  std::vector<std::byte> buffer(step);
  std::uint64_t at = 0;
  for (;;) {
    if (stop()) return Error{Errc::shutdown, "the server is stopping"};
    auto got = (*reader)->read(at, buffer);
    if (!got) return got.error();
    const ByteView bytes = ByteView(buffer).first(*got);
    sum.add(bytes);
    if (chunked) chunks.add(bytes);
    at += *got;
    if (*got < buffer.size()) break;
  }
  Verdict verdict;
  verdict.sha256 = sum.finish();
  if (record.length != 0 && record.state == State::complete && at != record.length)
    verdict.problem = fmt::format("it has {} bytes and should have {}", at, record.length);
  else if (!record.sha256.empty() && verdict.sha256 != record.sha256)
    verdict.problem = fmt::format("its SHA-256 is {} and was {}", verdict.sha256, record.sha256);
  else if (chunked && chunks.finish(at) != record.stream_digest)
    verdict.problem = "it is not what its sender digested";
  verdict.good = verdict.problem.empty();
  return verdict;
}

void find_dmesg(Store& store, Record& record) {
  if (record.dmesg || (record.kind != "elf" && record.kind != "kdump")) return;
  const std::string path = image_path(store, record);
  if (path.empty() || ::access(makedumpfile, X_OK) != 0) return;
  char folder[] = "/tmp/blockloom-dmesg-XXXXXX";
  if (::mkdtemp(folder) == nullptr) return;
  const std::string out = std::string(folder) + "/dmesg";
  ChildSpec spec;
  spec.command = {makedumpfile, "--dump-dmesg", path, out};
  spec.environment = {"PATH=/usr/bin:/bin", "LC_ALL=C", fmt::format("TMPDIR={}", folder)};
  spec.folder = folder;
  spec.timeout = std::chrono::seconds(30);
  spec.memory = std::uint64_t{1} << 30;
  spec.file_size = 64u << 20;
  spec.no_network = true;
  const auto done = run_child(spec);
  std::string text;
  if (const UniqueFd fd(::open(out.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)); fd)
    if (auto read = read_up_to(fd.get(), 16u << 20)) text = std::move(*read);
  ::unlink(out.c_str());
  ::rmdir(folder);
  if (!done || done.value().status != 0 || text.empty()) {
    log_info(fmt::format("dump {}: makedumpfile finds no kernel log in it", record.id.text()));
    return;
  }
  if (auto put = store.back_end().put(record.id, "dmesg.txt", text); !put)
    return log_warning(put.error().message);
  record.dmesg = true;
  const PanicText panic = find_panic(text);
  if (!panic.line.empty() && record.panic.empty()) record.panic = panic.line;
  if (!panic.signature.empty()) record.signature = panic.signature;
}

void run_hook(const Options& options, Store& store, const Record& record, std::string_view reason) {
  if (options.hook.empty()) return;
  const std::string path = image_path(store, record);
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  ChildSpec spec;
  spec.command = {options.hook,
                  std::string(reason),
                  record.address,
                  record.hostname,
                  folder.empty() ? "" : folder + "record.json",
                  path};
  spec.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                      "BLOCKLOOM_DUMP_ID=" + record.id.text(),
                      "BLOCKLOOM_DUMP_STATE=" + std::string(to_string(record.state)),
                      "BLOCKLOOM_DUMP_REASON=" + std::string(to_string(record.reason)),
                      "BLOCKLOOM_DUMP_KERNEL=" + record.kernel,
                      "BLOCKLOOM_DUMP_PANIC=" + record.panic,
                      "BLOCKLOOM_DUMP_SIGNATURE=" + record.signature,
                      fmt::format("BLOCKLOOM_DUMP_BYTES={}", record.bytes)};
  for (std::string& entry : spec.environment)
    std::replace(entry.begin(), entry.end(), '\0', ' ');
  spec.timeout = options.hook_timeout;
  const auto done = run_child(spec);
  if (!done)
    log_warning(fmt::format("dump hook: {}", done.error().message));
  else if (done.value().status != 0)
    log_warning(fmt::format("dump hook '{}' {}: exit status {}: {}", options.hook, reason,
                            done.value().status, quoted(done.value().output)));
}

}  // namespace blockloom::dump
