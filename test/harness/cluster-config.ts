// SPDX-License-Identifier: Apache-2.0

/** A node's place in the cluster's network, which no other process sees. */
export const addressOf = (id: number): string => `10.0.0.${id}`;

/** How the nodes and their guest nodes know each other. */
export const authKey = 'a key that every cluster of these tests has';

/** Whom the nodes know by name. */
export const hosts = (names: readonly string[]): string =>
  names.map((name, index) => `${addressOf(index + 1)} ${name}\n`).join('');

/**
 * Two nodes over knet. A node that a busy machine lets wait is not dead: the token's time is long, and what Corosync would
 * derive from it, which is how long a start takes, is short.
 */
export function corosyncConf(names: readonly string[]): string {
  const node = (name: string, index: number) =>
    `  node {\n    ring0_addr: ${addressOf(index + 1)}\n    name: ${name}\n    nodeid: ${index + 1}\n  }\n`;
  return `totem {
  version: 2
  cluster_name: vesper-test
  transport: knet
  crypto_cipher: none
  crypto_hash: none
  token: 5000
  interface {
    linknumber: 0
    knet_ping_interval: 100
    knet_ping_timeout: 5000
    knet_pong_count: 1
  }
}
quorum {
  provider: corosync_votequorum
  two_node: 1
  wait_for_all: 0
}
logging {
  to_stderr: yes
  to_syslog: no
}
system {
  sched_rr: no
  move_to_root_cgroup: no
}
nodelist {
${names.map(node).join('')}}
`;
}

/** The configuration every node begins with. `resources` is what stands in a CIB's element of that name. */
export function cib(names: readonly string[], resources: string): string {
  const options = {
    // There is nothing to fence with.
    'stonith-enabled': 'false',
    'no-quorum-policy': 'ignore',
    // How long a node that starts looks for a DC before it becomes one.
    'dc-deadtime': '1s',
    'cluster-recheck-interval': '15min',
  };
  const option = ([name, value]: readonly [string, string]) =>
    `<nvpair id="option-${name}" name="${name}" value="${value}"/>`;
  return `<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0">
<configuration>
<crm_config><cluster_property_set id="cib-bootstrap-options">
${Object.entries(options).map(option).join('\n')}
</cluster_property_set></crm_config>
<nodes>
${names.map((name, index) => `<node id="${index + 1}" uname="${name}"/>`).join('\n')}
</nodes>
<resources>${resources}</resources>
<constraints/>
</configuration>
<status/>
</cib>
`;
}
