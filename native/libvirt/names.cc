// SPDX-License-Identifier: Apache-2.0
#include "names.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <span>

namespace vesper::libvirt {
namespace {

struct Name {
  int value;
  const char* text;
};

#define AS_SPELT(constant) \
  { constant, #constant }

constexpr Name kErrorCodes[] = {AS_SPELT(VIR_ERR_OK),
                                AS_SPELT(VIR_ERR_INTERNAL_ERROR),
                                AS_SPELT(VIR_ERR_NO_MEMORY),
                                AS_SPELT(VIR_ERR_NO_SUPPORT),
                                AS_SPELT(VIR_ERR_UNKNOWN_HOST),
                                AS_SPELT(VIR_ERR_NO_CONNECT),
                                AS_SPELT(VIR_ERR_INVALID_CONN),
                                AS_SPELT(VIR_ERR_INVALID_DOMAIN),
                                AS_SPELT(VIR_ERR_INVALID_ARG),
                                AS_SPELT(VIR_ERR_OPERATION_FAILED),
                                AS_SPELT(VIR_ERR_GET_FAILED),
                                AS_SPELT(VIR_ERR_POST_FAILED),
                                AS_SPELT(VIR_ERR_HTTP_ERROR),
                                AS_SPELT(VIR_ERR_SEXPR_SERIAL),
                                AS_SPELT(VIR_ERR_NO_XEN),
                                AS_SPELT(VIR_ERR_XEN_CALL),
                                AS_SPELT(VIR_ERR_OS_TYPE),
                                AS_SPELT(VIR_ERR_NO_KERNEL),
                                AS_SPELT(VIR_ERR_NO_ROOT),
                                AS_SPELT(VIR_ERR_NO_SOURCE),
                                AS_SPELT(VIR_ERR_NO_TARGET),
                                AS_SPELT(VIR_ERR_NO_NAME),
                                AS_SPELT(VIR_ERR_NO_OS),
                                AS_SPELT(VIR_ERR_NO_DEVICE),
                                AS_SPELT(VIR_ERR_NO_XENSTORE),
                                AS_SPELT(VIR_ERR_DRIVER_FULL),
                                AS_SPELT(VIR_ERR_CALL_FAILED),
                                AS_SPELT(VIR_ERR_XML_ERROR),
                                AS_SPELT(VIR_ERR_DOM_EXIST),
                                AS_SPELT(VIR_ERR_OPERATION_DENIED),
                                AS_SPELT(VIR_ERR_OPEN_FAILED),
                                AS_SPELT(VIR_ERR_READ_FAILED),
                                AS_SPELT(VIR_ERR_PARSE_FAILED),
                                AS_SPELT(VIR_ERR_CONF_SYNTAX),
                                AS_SPELT(VIR_ERR_WRITE_FAILED),
                                AS_SPELT(VIR_ERR_XML_DETAIL),
                                AS_SPELT(VIR_ERR_INVALID_NETWORK),
                                AS_SPELT(VIR_ERR_NETWORK_EXIST),
                                AS_SPELT(VIR_ERR_SYSTEM_ERROR),
                                AS_SPELT(VIR_ERR_RPC),
                                AS_SPELT(VIR_ERR_GNUTLS_ERROR),
                                AS_SPELT(VIR_WAR_NO_NETWORK),
                                AS_SPELT(VIR_ERR_NO_DOMAIN),
                                AS_SPELT(VIR_ERR_NO_NETWORK),
                                AS_SPELT(VIR_ERR_INVALID_MAC),
                                AS_SPELT(VIR_ERR_AUTH_FAILED),
                                AS_SPELT(VIR_ERR_INVALID_STORAGE_POOL),
                                AS_SPELT(VIR_ERR_INVALID_STORAGE_VOL),
                                AS_SPELT(VIR_WAR_NO_STORAGE),
                                AS_SPELT(VIR_ERR_NO_STORAGE_POOL),
                                AS_SPELT(VIR_ERR_NO_STORAGE_VOL),
                                AS_SPELT(VIR_WAR_NO_NODE),
                                AS_SPELT(VIR_ERR_INVALID_NODE_DEVICE),
                                AS_SPELT(VIR_ERR_NO_NODE_DEVICE),
                                AS_SPELT(VIR_ERR_NO_SECURITY_MODEL),
                                AS_SPELT(VIR_ERR_OPERATION_INVALID),
                                AS_SPELT(VIR_WAR_NO_INTERFACE),
                                AS_SPELT(VIR_ERR_NO_INTERFACE),
                                AS_SPELT(VIR_ERR_INVALID_INTERFACE),
                                AS_SPELT(VIR_ERR_MULTIPLE_INTERFACES),
                                AS_SPELT(VIR_WAR_NO_NWFILTER),
                                AS_SPELT(VIR_ERR_INVALID_NWFILTER),
                                AS_SPELT(VIR_ERR_NO_NWFILTER),
                                AS_SPELT(VIR_ERR_BUILD_FIREWALL),
                                AS_SPELT(VIR_WAR_NO_SECRET),
                                AS_SPELT(VIR_ERR_INVALID_SECRET),
                                AS_SPELT(VIR_ERR_NO_SECRET),
                                AS_SPELT(VIR_ERR_CONFIG_UNSUPPORTED),
                                AS_SPELT(VIR_ERR_OPERATION_TIMEOUT),
                                AS_SPELT(VIR_ERR_MIGRATE_PERSIST_FAILED),
                                AS_SPELT(VIR_ERR_HOOK_SCRIPT_FAILED),
                                AS_SPELT(VIR_ERR_INVALID_DOMAIN_SNAPSHOT),
                                AS_SPELT(VIR_ERR_NO_DOMAIN_SNAPSHOT),
                                AS_SPELT(VIR_ERR_INVALID_STREAM),
                                AS_SPELT(VIR_ERR_ARGUMENT_UNSUPPORTED),
                                AS_SPELT(VIR_ERR_STORAGE_PROBE_FAILED),
                                AS_SPELT(VIR_ERR_STORAGE_POOL_BUILT),
                                AS_SPELT(VIR_ERR_SNAPSHOT_REVERT_RISKY),
                                AS_SPELT(VIR_ERR_OPERATION_ABORTED),
                                AS_SPELT(VIR_ERR_AUTH_CANCELLED),
                                AS_SPELT(VIR_ERR_NO_DOMAIN_METADATA),
                                AS_SPELT(VIR_ERR_MIGRATE_UNSAFE),
                                AS_SPELT(VIR_ERR_OVERFLOW),
                                AS_SPELT(VIR_ERR_BLOCK_COPY_ACTIVE),
                                AS_SPELT(VIR_ERR_OPERATION_UNSUPPORTED),
                                AS_SPELT(VIR_ERR_SSH),
                                AS_SPELT(VIR_ERR_AGENT_UNRESPONSIVE),
                                AS_SPELT(VIR_ERR_RESOURCE_BUSY),
                                AS_SPELT(VIR_ERR_ACCESS_DENIED),
                                AS_SPELT(VIR_ERR_DBUS_SERVICE),
                                AS_SPELT(VIR_ERR_STORAGE_VOL_EXIST),
                                AS_SPELT(VIR_ERR_CPU_INCOMPATIBLE),
                                AS_SPELT(VIR_ERR_XML_INVALID_SCHEMA),
                                AS_SPELT(VIR_ERR_MIGRATE_FINISH_OK),
                                AS_SPELT(VIR_ERR_AUTH_UNAVAILABLE),
                                AS_SPELT(VIR_ERR_NO_SERVER),
                                AS_SPELT(VIR_ERR_NO_CLIENT),
                                AS_SPELT(VIR_ERR_AGENT_UNSYNCED),
                                AS_SPELT(VIR_ERR_LIBSSH),
                                AS_SPELT(VIR_ERR_DEVICE_MISSING),
                                AS_SPELT(VIR_ERR_INVALID_NWFILTER_BINDING),
                                AS_SPELT(VIR_ERR_NO_NWFILTER_BINDING),
                                AS_SPELT(VIR_ERR_INVALID_DOMAIN_CHECKPOINT),
                                AS_SPELT(VIR_ERR_NO_DOMAIN_CHECKPOINT),
                                AS_SPELT(VIR_ERR_NO_DOMAIN_BACKUP),
                                AS_SPELT(VIR_ERR_INVALID_NETWORK_PORT),
                                AS_SPELT(VIR_ERR_NETWORK_PORT_EXIST),
                                AS_SPELT(VIR_ERR_NO_NETWORK_PORT),
                                AS_SPELT(VIR_ERR_NO_HOSTNAME),
                                AS_SPELT(VIR_ERR_CHECKPOINT_INCONSISTENT),
                                AS_SPELT(VIR_ERR_MULTIPLE_DOMAINS)};

constexpr Name kErrorDomains[] = {AS_SPELT(VIR_FROM_NONE),
                                  AS_SPELT(VIR_FROM_XEN),
                                  AS_SPELT(VIR_FROM_XEND),
                                  AS_SPELT(VIR_FROM_XENSTORE),
                                  AS_SPELT(VIR_FROM_SEXPR),
                                  AS_SPELT(VIR_FROM_XML),
                                  AS_SPELT(VIR_FROM_DOM),
                                  AS_SPELT(VIR_FROM_RPC),
                                  AS_SPELT(VIR_FROM_PROXY),
                                  AS_SPELT(VIR_FROM_CONF),
                                  AS_SPELT(VIR_FROM_QEMU),
                                  AS_SPELT(VIR_FROM_NET),
                                  AS_SPELT(VIR_FROM_TEST),
                                  AS_SPELT(VIR_FROM_REMOTE),
                                  AS_SPELT(VIR_FROM_OPENVZ),
                                  AS_SPELT(VIR_FROM_XENXM),
                                  AS_SPELT(VIR_FROM_STATS_LINUX),
                                  AS_SPELT(VIR_FROM_LXC),
                                  AS_SPELT(VIR_FROM_STORAGE),
                                  AS_SPELT(VIR_FROM_NETWORK),
                                  AS_SPELT(VIR_FROM_DOMAIN),
                                  AS_SPELT(VIR_FROM_UML),
                                  AS_SPELT(VIR_FROM_NODEDEV),
                                  AS_SPELT(VIR_FROM_XEN_INOTIFY),
                                  AS_SPELT(VIR_FROM_SECURITY),
                                  AS_SPELT(VIR_FROM_VBOX),
                                  AS_SPELT(VIR_FROM_INTERFACE),
                                  AS_SPELT(VIR_FROM_ONE),
                                  AS_SPELT(VIR_FROM_ESX),
                                  AS_SPELT(VIR_FROM_PHYP),
                                  AS_SPELT(VIR_FROM_SECRET),
                                  AS_SPELT(VIR_FROM_CPU),
                                  AS_SPELT(VIR_FROM_XENAPI),
                                  AS_SPELT(VIR_FROM_NWFILTER),
                                  AS_SPELT(VIR_FROM_HOOK),
                                  AS_SPELT(VIR_FROM_DOMAIN_SNAPSHOT),
                                  AS_SPELT(VIR_FROM_AUDIT),
                                  AS_SPELT(VIR_FROM_SYSINFO),
                                  AS_SPELT(VIR_FROM_STREAMS),
                                  AS_SPELT(VIR_FROM_VMWARE),
                                  AS_SPELT(VIR_FROM_EVENT),
                                  AS_SPELT(VIR_FROM_LIBXL),
                                  AS_SPELT(VIR_FROM_LOCKING),
                                  AS_SPELT(VIR_FROM_HYPERV),
                                  AS_SPELT(VIR_FROM_CAPABILITIES),
                                  AS_SPELT(VIR_FROM_URI),
                                  AS_SPELT(VIR_FROM_AUTH),
                                  AS_SPELT(VIR_FROM_DBUS),
                                  AS_SPELT(VIR_FROM_PARALLELS),
                                  AS_SPELT(VIR_FROM_DEVICE),
                                  AS_SPELT(VIR_FROM_SSH),
                                  AS_SPELT(VIR_FROM_LOCKSPACE),
                                  AS_SPELT(VIR_FROM_INITCTL),
                                  AS_SPELT(VIR_FROM_IDENTITY),
                                  AS_SPELT(VIR_FROM_CGROUP),
                                  AS_SPELT(VIR_FROM_ACCESS),
                                  AS_SPELT(VIR_FROM_SYSTEMD),
                                  AS_SPELT(VIR_FROM_BHYVE),
                                  AS_SPELT(VIR_FROM_CRYPTO),
                                  AS_SPELT(VIR_FROM_FIREWALL),
                                  AS_SPELT(VIR_FROM_POLKIT),
                                  AS_SPELT(VIR_FROM_THREAD),
                                  AS_SPELT(VIR_FROM_ADMIN),
                                  AS_SPELT(VIR_FROM_LOGGING),
                                  AS_SPELT(VIR_FROM_XENXL),
                                  AS_SPELT(VIR_FROM_PERF),
                                  AS_SPELT(VIR_FROM_LIBSSH),
                                  AS_SPELT(VIR_FROM_RESCTRL),
                                  AS_SPELT(VIR_FROM_FIREWALLD),
                                  AS_SPELT(VIR_FROM_DOMAIN_CHECKPOINT),
                                  AS_SPELT(VIR_FROM_TPM),
                                  AS_SPELT(VIR_FROM_BPF),
                                  AS_SPELT(VIR_FROM_CH)};

#undef AS_SPELT

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

constexpr Name kJobOperations[] = {
    {VIR_DOMAIN_JOB_OPERATION_UNKNOWN, "unknown"},
    {VIR_DOMAIN_JOB_OPERATION_START, "start"},
    {VIR_DOMAIN_JOB_OPERATION_SAVE, "save"},
    {VIR_DOMAIN_JOB_OPERATION_RESTORE, "restore"},
    {VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, "migration-in"},
    {VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, "migration-out"},
    {VIR_DOMAIN_JOB_OPERATION_SNAPSHOT, "snapshot"},
    {VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT, "snapshot-revert"},
    {VIR_DOMAIN_JOB_OPERATION_DUMP, "dump"},
    {VIR_DOMAIN_JOB_OPERATION_BACKUP, "backup"},
    {VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE, "snapshot-delete"},
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

std::string unknown(int value) { return "unknown-" + std::to_string(value); }

std::string find(std::span<const Name> names, int value) {
  for (const Name& name : names) {
    if (name.value == value) return name.text;
  }
  return unknown(value);
}

std::string find(std::span<const Family> families, int family, int value) {
  for (const Family& one : families) {
    if (one.value == family) return find(one.members, value);
  }
  return unknown(value);
}

}  // namespace

std::string error_code_name(int code) { return find(kErrorCodes, code); }
std::string error_domain_name(int domain) { return find(kErrorDomains, domain); }
std::string state_name(int state) { return find(kStates, state); }
std::string lifecycle_event_name(int event) { return find(kLifecycleEvents, event); }
std::string watchdog_action_name(int action) { return find(kWatchdogActions, action); }
std::string io_error_action_name(int action) { return find(kIoErrorActions, action); }
std::string agent_state_name(int state) { return find(kAgentStates, state); }
std::string agent_reason_name(int reason) { return find(kAgentReasons, reason); }
std::string metadata_type_name(int type) { return find(kMetadataTypes, type); }
std::string job_type_name(int type) { return find(kJobTypes, type); }
std::string job_operation_name(int operation) { return find(kJobOperations, operation); }
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
