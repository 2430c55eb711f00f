#pragma once

#include <string>
#include <vector>

/// In place of the shipper: Connections that write down what the shim tells them.
namespace sqlstream::testing {

/// Everything recorded since the last call, oldest first, and forgets it. An event is the name of
/// the Connection's method with its arguments, "locked 4"; the engine's functions
/// are there too. Paths are shortened to their file name.
std::vector<std::string> take_events();

/// Called with each event as it happens, on the thread of the hook; null: nothing.
void set_observer(void (*observer)(const std::string& event));

/// How many Connections exist now.
int open_connections();

/// What Connection::wait_shipped is to return from now on.
void set_shipped(bool shipped);

/// What Connection::outside_wal and refuses_writes return from now on.
void set_outside_wal(bool outside);
void set_refusing_writes(bool refusing);

/// Makes Connection::open report, as an unusable engine would, by returning null.
void set_refusing(bool refusing);

}  // namespace sqlstream::testing
