#pragma once

namespace sqlstream::tools {

/// What the programs here set once, before any thread: no SIGPIPE, no file in the place of a
/// standard stream that is closed, and memory given back to the
/// system when a large piece is done with, instead of growing with the largest sizes ever used.
void prepare_process();

}  // namespace sqlstream::tools
