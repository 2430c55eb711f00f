#pragma once

namespace sqlstream::tools {

/// What the programs here set once, before any thread: no SIGPIPE and no SIGXFSZ, no file in the
/// place of a standard stream that is closed, and memory given back to the system when a large
/// piece is done with, instead of growing with the largest sizes ever used.
void prepare_process();

/// For a command that is done soon, and needs pieces of the same size again and again: what is
/// freed stays, since to have each piece mapped, zeroed and unmapped takes longer than to fill it.
void keep_freed_memory();

}  // namespace sqlstream::tools
