// SPDX-License-Identifier: Apache-2.0
#include "names.h"

#include <libvirt/libvirt.h>

#include "name_table.h"

namespace vesper::libvirt {
namespace {

constexpr Name kStates[] = {
    {VIR_DOMAIN_NOSTATE, "no-state"}, {VIR_DOMAIN_RUNNING, "running"},         {VIR_DOMAIN_BLOCKED, "blocked"},
    {VIR_DOMAIN_PAUSED, "paused"},    {VIR_DOMAIN_SHUTDOWN, "shutdown"},       {VIR_DOMAIN_SHUTOFF, "shutoff"},
    {VIR_DOMAIN_CRASHED, "crashed"},  {VIR_DOMAIN_PMSUSPENDED, "pmsuspended"},
};

constexpr Name kNostateReasons[] = {
    {VIR_DOMAIN_NOSTATE_UNKNOWN, "unknown"},
};

constexpr Name kRunningReasons[] = {
    {VIR_DOMAIN_RUNNING_UNKNOWN, "unknown"},
    {VIR_DOMAIN_RUNNING_BOOTED, "booted"},
    {VIR_DOMAIN_RUNNING_MIGRATED, "migrated"},
    {VIR_DOMAIN_RUNNING_RESTORED, "restored"},
    {VIR_DOMAIN_RUNNING_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_RUNNING_UNPAUSED, "unpaused"},
    {VIR_DOMAIN_RUNNING_MIGRATION_CANCELED, "migration-canceled"},
    {VIR_DOMAIN_RUNNING_SAVE_CANCELED, "save-canceled"},
    {VIR_DOMAIN_RUNNING_WAKEUP, "wakeup"},
    {VIR_DOMAIN_RUNNING_CRASHED, "crashed"},
    {VIR_DOMAIN_RUNNING_POSTCOPY, "postcopy"},
    {VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, "postcopy-failed"},
};

constexpr Name kBlockedReasons[] = {
    {VIR_DOMAIN_BLOCKED_UNKNOWN, "unknown"},
};

constexpr Name kPausedReasons[] = {
    {VIR_DOMAIN_PAUSED_UNKNOWN, "unknown"},
    {VIR_DOMAIN_PAUSED_USER, "user"},
    {VIR_DOMAIN_PAUSED_MIGRATION, "migration"},
    {VIR_DOMAIN_PAUSED_SAVE, "save"},
    {VIR_DOMAIN_PAUSED_DUMP, "dump"},
    {VIR_DOMAIN_PAUSED_IOERROR, "io-error"},
    {VIR_DOMAIN_PAUSED_WATCHDOG, "watchdog"},
    {VIR_DOMAIN_PAUSED_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_PAUSED_SHUTTING_DOWN, "shutting-down"},
    {VIR_DOMAIN_PAUSED_SNAPSHOT, "snapshot"},
    {VIR_DOMAIN_PAUSED_CRASHED, "crashed"},
    {VIR_DOMAIN_PAUSED_STARTING_UP, "starting-up"},
    {VIR_DOMAIN_PAUSED_POSTCOPY, "postcopy"},
    {VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, "postcopy-failed"},
};

constexpr Name kShutdownReasons[] = {
    {VIR_DOMAIN_SHUTDOWN_UNKNOWN, "unknown"},
    {VIR_DOMAIN_SHUTDOWN_USER, "user"},
};

constexpr Name kShutoffReasons[] = {
    {VIR_DOMAIN_SHUTOFF_UNKNOWN, "unknown"},     {VIR_DOMAIN_SHUTOFF_SHUTDOWN, "shutdown"},
    {VIR_DOMAIN_SHUTOFF_DESTROYED, "destroyed"}, {VIR_DOMAIN_SHUTOFF_CRASHED, "crashed"},
    {VIR_DOMAIN_SHUTOFF_MIGRATED, "migrated"},   {VIR_DOMAIN_SHUTOFF_SAVED, "saved"},
    {VIR_DOMAIN_SHUTOFF_FAILED, "failed"},       {VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_SHUTOFF_DAEMON, "daemon"},
};

constexpr Name kCrashedReasons[] = {
    {VIR_DOMAIN_CRASHED_UNKNOWN, "unknown"},
    {VIR_DOMAIN_CRASHED_PANICKED, "panicked"},
};

constexpr Name kPmsuspendedReasons[] = {
    {VIR_DOMAIN_PMSUSPENDED_UNKNOWN, "unknown"},
};

constexpr Name kLifecycleEvents[] = {
    {VIR_DOMAIN_EVENT_DEFINED, "defined"},   {VIR_DOMAIN_EVENT_UNDEFINED, "undefined"},
    {VIR_DOMAIN_EVENT_STARTED, "started"},   {VIR_DOMAIN_EVENT_SUSPENDED, "suspended"},
    {VIR_DOMAIN_EVENT_RESUMED, "resumed"},   {VIR_DOMAIN_EVENT_STOPPED, "stopped"},
    {VIR_DOMAIN_EVENT_SHUTDOWN, "shutdown"}, {VIR_DOMAIN_EVENT_PMSUSPENDED, "pmsuspended"},
    {VIR_DOMAIN_EVENT_CRASHED, "crashed"},
};

constexpr Name kDefinedDetails[] = {
    {VIR_DOMAIN_EVENT_DEFINED_ADDED, "added"},
    {VIR_DOMAIN_EVENT_DEFINED_UPDATED, "updated"},
    {VIR_DOMAIN_EVENT_DEFINED_RENAMED, "renamed"},
    {VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT, "from-snapshot"},
};

constexpr Name kUndefinedDetails[] = {
    {VIR_DOMAIN_EVENT_UNDEFINED_REMOVED, "removed"},
    {VIR_DOMAIN_EVENT_UNDEFINED_RENAMED, "renamed"},
};

constexpr Name kStartedDetails[] = {
    {VIR_DOMAIN_EVENT_STARTED_BOOTED, "booted"},     {VIR_DOMAIN_EVENT_STARTED_MIGRATED, "migrated"},
    {VIR_DOMAIN_EVENT_STARTED_RESTORED, "restored"}, {VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_EVENT_STARTED_WAKEUP, "wakeup"},
};

constexpr Name kSuspendedDetails[] = {
    {VIR_DOMAIN_EVENT_SUSPENDED_PAUSED, "paused"},
    {VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED, "migrated"},
    {VIR_DOMAIN_EVENT_SUSPENDED_IOERROR, "io-error"},
    {VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG, "watchdog"},
    {VIR_DOMAIN_EVENT_SUSPENDED_RESTORED, "restored"},
    {VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR, "api-error"},
    {VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY, "postcopy"},
    {VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED, "postcopy-failed"},
};

constexpr Name kResumedDetails[] = {
    {VIR_DOMAIN_EVENT_RESUMED_UNPAUSED, "unpaused"},
    {VIR_DOMAIN_EVENT_RESUMED_MIGRATED, "migrated"},
    {VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT, "from-snapshot"},
    {VIR_DOMAIN_EVENT_RESUMED_POSTCOPY, "postcopy"},
    {VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED, "postcopy-failed"},
};

constexpr Name kStoppedDetails[] = {
    {VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, "shutdown"},
    {VIR_DOMAIN_EVENT_STOPPED_DESTROYED, "destroyed"},
    {VIR_DOMAIN_EVENT_STOPPED_CRASHED, "crashed"},
    {VIR_DOMAIN_EVENT_STOPPED_MIGRATED, "migrated"},
    {VIR_DOMAIN_EVENT_STOPPED_SAVED, "saved"},
    {VIR_DOMAIN_EVENT_STOPPED_FAILED, "failed"},
    {VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT, "from-snapshot"},
};

constexpr Name kShutdownDetails[] = {
    {VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED, "finished"},
    {VIR_DOMAIN_EVENT_SHUTDOWN_GUEST, "guest"},
    {VIR_DOMAIN_EVENT_SHUTDOWN_HOST, "host"},
};

constexpr Name kPmsuspendedDetails[] = {
    {VIR_DOMAIN_EVENT_PMSUSPENDED_MEMORY, "memory"},
    {VIR_DOMAIN_EVENT_PMSUSPENDED_DISK, "disk"},
};

constexpr Name kCrashedDetails[] = {
    {VIR_DOMAIN_EVENT_CRASHED_PANICKED, "panicked"},
    {VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED, "crashloaded"},
};

constexpr Name kWatchdogActions[] = {
    {VIR_DOMAIN_EVENT_WATCHDOG_NONE, "none"},
    {VIR_DOMAIN_EVENT_WATCHDOG_PAUSE, "pause"},
    {VIR_DOMAIN_EVENT_WATCHDOG_RESET, "reset"},
    {VIR_DOMAIN_EVENT_WATCHDOG_POWEROFF, "poweroff"},
    {VIR_DOMAIN_EVENT_WATCHDOG_SHUTDOWN, "shutdown"},
    {VIR_DOMAIN_EVENT_WATCHDOG_DEBUG, "debug"},
    {VIR_DOMAIN_EVENT_WATCHDOG_INJECTNMI, "inject-nmi"},
};

constexpr Name kIoErrorActions[] = {
    {VIR_DOMAIN_EVENT_IO_ERROR_NONE, "none"},
    {VIR_DOMAIN_EVENT_IO_ERROR_PAUSE, "pause"},
    {VIR_DOMAIN_EVENT_IO_ERROR_REPORT, "report"},
};

constexpr Name kAgentStates[] = {
    {VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED, "connected"},
    {VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED, "disconnected"},
};

constexpr Name kAgentReasons[] = {
    {VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_UNKNOWN, "unknown"},
    {VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_DOMAIN_STARTED, "domain-started"},
    {VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_CHANNEL, "channel"},
};

constexpr Name kMetadataTypes[] = {
    {VIR_DOMAIN_METADATA_DESCRIPTION, "description"},
    {VIR_DOMAIN_METADATA_TITLE, "title"},
    {VIR_DOMAIN_METADATA_ELEMENT, "element"},
};

constexpr Name kJobTypes[] = {
    {VIR_DOMAIN_JOB_NONE, "none"},           {VIR_DOMAIN_JOB_BOUNDED, "bounded"},
    {VIR_DOMAIN_JOB_UNBOUNDED, "unbounded"}, {VIR_DOMAIN_JOB_COMPLETED, "completed"},
    {VIR_DOMAIN_JOB_FAILED, "failed"},       {VIR_DOMAIN_JOB_CANCELLED, "cancelled"},
};

constexpr Name kMemoryFailureRecipients[] = {
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_RECIPIENT_HYPERVISOR, "hypervisor"},
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_RECIPIENT_GUEST, "guest"},
};

constexpr Name kMemoryFailureActions[] = {
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_IGNORE, "ignore"},
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_INJECT, "inject"},
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_FATAL, "fatal"},
    {VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_RESET, "reset"},
};

constexpr Name kBlockJobTypes[] = {
    {VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN, "unknown"},
    {VIR_DOMAIN_BLOCK_JOB_TYPE_PULL, "pull"},
    {VIR_DOMAIN_BLOCK_JOB_TYPE_COPY, "copy"},
    {VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT, "commit"},
    {VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT, "active-commit"},
    {VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP, "backup"},
};

constexpr Name kBlockJobStates[] = {
    {VIR_DOMAIN_BLOCK_JOB_COMPLETED, "completed"},
    {VIR_DOMAIN_BLOCK_JOB_FAILED, "failed"},
    {VIR_DOMAIN_BLOCK_JOB_CANCELED, "canceled"},
    {VIR_DOMAIN_BLOCK_JOB_READY, "ready"},
};

constexpr Name kMemoryStatistics[] = {
    {VIR_DOMAIN_MEMORY_STAT_SWAP_IN, "swap-in"},
    {VIR_DOMAIN_MEMORY_STAT_SWAP_OUT, "swap-out"},
    {VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT, "major-fault"},
    {VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT, "minor-fault"},
    {VIR_DOMAIN_MEMORY_STAT_UNUSED, "unused"},
    {VIR_DOMAIN_MEMORY_STAT_AVAILABLE, "available"},
    {VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON, "actual-balloon"},
    {VIR_DOMAIN_MEMORY_STAT_RSS, "rss"},
    {VIR_DOMAIN_MEMORY_STAT_USABLE, "usable"},
    {VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE, "last-update"},
    {VIR_DOMAIN_MEMORY_STAT_DISK_CACHES, "disk-caches"},
    {VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC, "hugetlb-pgalloc"},
    {VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL, "hugetlb-pgfail"},
};

constexpr Name kCloseReasons[] = {
    {VIR_CONNECT_CLOSE_REASON_ERROR, "error"},
    {VIR_CONNECT_CLOSE_REASON_EOF, "eof"},
    {VIR_CONNECT_CLOSE_REASON_KEEPALIVE, "keepalive"},
    {VIR_CONNECT_CLOSE_REASON_CLIENT, "client"},
};

constexpr Name kCredentials[] = {
    {VIR_CRED_USERNAME, "username"},         {VIR_CRED_AUTHNAME, "authname"},
    {VIR_CRED_LANGUAGE, "language"},         {VIR_CRED_CNONCE, "cnonce"},
    {VIR_CRED_PASSPHRASE, "passphrase"},     {VIR_CRED_ECHOPROMPT, "echoprompt"},
    {VIR_CRED_NOECHOPROMPT, "noechoprompt"}, {VIR_CRED_REALM, "realm"},
    {VIR_CRED_EXTERNAL, "external"},
};

// The reasons of a state, the details of an event.
struct Family {
  int value;
  std::span<const Name> members;
};

constexpr Family kStateReasons[] = {
    {VIR_DOMAIN_NOSTATE, kNostateReasons},   {VIR_DOMAIN_RUNNING, kRunningReasons},
    {VIR_DOMAIN_BLOCKED, kBlockedReasons},   {VIR_DOMAIN_PAUSED, kPausedReasons},
    {VIR_DOMAIN_SHUTDOWN, kShutdownReasons}, {VIR_DOMAIN_SHUTOFF, kShutoffReasons},
    {VIR_DOMAIN_CRASHED, kCrashedReasons},   {VIR_DOMAIN_PMSUSPENDED, kPmsuspendedReasons},
};

constexpr Family kLifecycleDetails[] = {
    {VIR_DOMAIN_EVENT_DEFINED, kDefinedDetails},   {VIR_DOMAIN_EVENT_UNDEFINED, kUndefinedDetails},
    {VIR_DOMAIN_EVENT_STARTED, kStartedDetails},   {VIR_DOMAIN_EVENT_SUSPENDED, kSuspendedDetails},
    {VIR_DOMAIN_EVENT_RESUMED, kResumedDetails},   {VIR_DOMAIN_EVENT_STOPPED, kStoppedDetails},
    {VIR_DOMAIN_EVENT_SHUTDOWN, kShutdownDetails}, {VIR_DOMAIN_EVENT_PMSUSPENDED, kPmsuspendedDetails},
    {VIR_DOMAIN_EVENT_CRASHED, kCrashedDetails},
};

std::string find(std::span<const Family> families, int family, int value) {
  for (const Family& one : families) {
    if (one.value == family) return find(one.members, value);
  }
  return unnamed(value);
}

}  // namespace

std::string state_name(int state) { return find(kStates, state); }
std::string lifecycle_event_name(int event) { return find(kLifecycleEvents, event); }
std::string watchdog_action_name(int action) { return find(kWatchdogActions, action); }
std::string io_error_action_name(int action) { return find(kIoErrorActions, action); }
std::string agent_state_name(int state) { return find(kAgentStates, state); }
std::string agent_reason_name(int reason) { return find(kAgentReasons, reason); }
std::string metadata_type_name(int type) { return find(kMetadataTypes, type); }
std::string job_type_name(int type) { return find(kJobTypes, type); }
std::string memory_failure_recipient_name(int recipient) { return find(kMemoryFailureRecipients, recipient); }
std::string memory_failure_action_name(int action) { return find(kMemoryFailureActions, action); }
std::string block_job_type_name(int type) { return find(kBlockJobTypes, type); }
std::string block_job_state_name(int state) { return find(kBlockJobStates, state); }
std::string memory_statistic_name(int tag) { return find(kMemoryStatistics, tag); }
std::string close_reason_name(int reason) { return find(kCloseReasons, reason); }
std::string credential_name(int type) { return find(kCredentials, type); }
std::string state_reason_name(int state, int reason) { return find(kStateReasons, state, reason); }
std::string lifecycle_detail_name(int event, int detail) { return find(kLifecycleDetails, event, detail); }

}  // namespace vesper::libvirt
