// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace vesper::libvirt {

// The names of libvirt's numbers. One that this libvirt's headers did not know yet is "unknown-<number>".

// As libvirt spells them: "VIR_ERR_NO_DOMAIN", "VIR_FROM_QEMU".
std::string error_code_name(int code);
std::string error_domain_name(int domain);

std::string state_name(int state);
std::string state_reason_name(int state, int reason);
std::string lifecycle_event_name(int event);
std::string lifecycle_detail_name(int event, int detail);
std::string watchdog_action_name(int action);
std::string io_error_action_name(int action);
std::string agent_state_name(int state);
std::string agent_reason_name(int reason);
std::string metadata_type_name(int type);
std::string job_type_name(int type);
std::string memory_failure_recipient_name(int recipient);
std::string memory_failure_action_name(int action);
std::string block_job_type_name(int type);
std::string block_job_state_name(int state);
std::string memory_statistic_name(int tag);
std::string close_reason_name(int reason);
std::string credential_name(int type);

}  // namespace vesper::libvirt
