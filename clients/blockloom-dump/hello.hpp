#pragma once

#include "clients/blockloom-dump/options.hpp"
#include "clients/blockloom-dump/source.hpp"
#include "clients/blockloom-dump/util.hpp"
#include "proto/dump/stream_wire.hpp"

namespace blockloom::sender {

/// The lines of a HELLO: who this machine is, what it sends, and that it knows the token.
void write_hello(Text<dump::wire::text_max>& hello, const SendOptions& options, const char* session,
                 const char* nonce, const Source& source);

}  // namespace blockloom::sender
