//! Which addresses are special: the IANA registries, multicast and metadata services, as runs of one class.
//!
//! Made by `scripts/addr_table.py`; do not edit. Source: the IANA IPv4 and IPv6 special-purpose address
//! registries as in Debian libzonemaster-perl 4.6.2-1 (4 March 2023),
//! with what they gained since and the cloud metadata addresses, both listed in the script.

use crate::IpClass::{self, *};

/// First address and class of each run of IPv4 addresses; the first run begins at 0.
#[rustfmt::skip]
pub(crate) static V4: [(u32, IpClass); 51] = [
    (0x0000_0000, Unspecified), // 0.0.0.0 "This host on this network"
    (0x0100_0000, Public), // 1.0.0.0 everything else
    (0x0a00_0000, Private), // 10.0.0.0 Private-Use
    (0x0b00_0000, Public), // 11.0.0.0 everything else
    (0x6440_0000, Shared), // 100.64.0.0 Shared Address Space
    (0x6464_64c8, Metadata), // 100.100.100.200 Alibaba
    (0x6464_64c9, Shared), // 100.100.100.201 Shared Address Space
    (0x6480_0000, Public), // 100.128.0.0 everything else
    (0x7f00_0000, Loopback), // 127.0.0.0 Loopback
    (0x8000_0000, Public), // 128.0.0.0 everything else
    (0xa83f_8110, Metadata), // 168.63.129.16 Azure WireServer
    (0xa83f_8111, Public), // 168.63.129.17 everything else
    (0xa9fe_0000, LinkLocal), // 169.254.0.0 Link Local
    (0xa9fe_0017, Metadata), // 169.254.0.23 Tencent
    (0xa9fe_0018, LinkLocal), // 169.254.0.24 Link Local
    (0xa9fe_2a2a, Metadata), // 169.254.42.42 Scaleway
    (0xa9fe_2a2b, LinkLocal), // 169.254.42.43 Link Local
    (0xa9fe_a9fe, Metadata), // 169.254.169.254 AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack, IBM
    (0xa9fe_a9ff, LinkLocal), // 169.254.169.255 Link Local
    (0xa9fe_aa02, Metadata), // 169.254.170.2 AWS ECS task credentials
    (0xa9fe_aa03, LinkLocal), // 169.254.170.3 Link Local
    (0xa9fe_aa17, Metadata), // 169.254.170.23 AWS EKS pod identity
    (0xa9fe_aa18, LinkLocal), // 169.254.170.24 Link Local
    (0xa9ff_0000, Public), // 169.255.0.0 everything else
    (0xac10_0000, Private), // 172.16.0.0 Private-Use
    (0xac20_0000, Public), // 172.32.0.0 everything else
    (0xc000_0000, Reserved), // 192.0.0.0 IPv4 Service Continuity Prefix
    (0xc000_00c0, Metadata), // 192.0.0.192 Oracle Classic
    (0xc000_00c1, Reserved), // 192.0.0.193 IETF Protocol Assignments
    (0xc000_0100, Public), // 192.0.1.0 everything else
    (0xc000_0200, Reserved), // 192.0.2.0 Documentation (TEST-NET-1)
    (0xc000_0300, Public), // 192.0.3.0 everything else
    (0xc01f_c400, Reserved), // 192.31.196.0 AS112-v4
    (0xc01f_c500, Public), // 192.31.197.0 everything else
    (0xc034_c100, Reserved), // 192.52.193.0 AMT
    (0xc034_c200, Public), // 192.52.194.0 everything else
    (0xc058_6300, Reserved), // 192.88.99.0 Deprecated (6to4 Relay Anycast)
    (0xc058_6400, Public), // 192.88.100.0 everything else
    (0xc0a8_0000, Private), // 192.168.0.0 Private-Use
    (0xc0a9_0000, Public), // 192.169.0.0 everything else
    (0xc0af_3000, Reserved), // 192.175.48.0 Direct Delegation AS112 Service
    (0xc0af_3100, Public), // 192.175.49.0 everything else
    (0xc612_0000, Reserved), // 198.18.0.0 Benchmarking
    (0xc614_0000, Public), // 198.20.0.0 everything else
    (0xc633_6400, Reserved), // 198.51.100.0 Documentation (TEST-NET-2)
    (0xc633_6500, Public), // 198.51.101.0 everything else
    (0xcb00_7100, Reserved), // 203.0.113.0 Documentation (TEST-NET-3)
    (0xcb00_7200, Public), // 203.0.114.0 everything else
    (0xe000_0000, Multicast), // 224.0.0.0 RFC 5771
    (0xf000_0000, Reserved), // 240.0.0.0 Reserved
    (0xffff_ffff, Multicast), // 255.255.255.255 Limited Broadcast
];

/// First address and class of each run of IPv6 addresses; the first run begins at 0.
#[rustfmt::skip]
pub(crate) static V6: [(u128, IpClass); 30] = [
    (0x0000_0000_0000_0000_0000_0000_0000_0000, Unspecified), // :: Unspecified Address
    (0x0000_0000_0000_0000_0000_0000_0000_0001, Loopback), // ::1 Loopback Address
    (0x0000_0000_0000_0000_0000_0000_0000_0002, Reserved), // ::2 unassigned
    (0x2000_0000_0000_0000_0000_0000_0000_0000, Public), // 2000:: global unicast
    (0x2001_0000_0000_0000_0000_0000_0000_0000, Reserved), // 2001:: TEREDO
    (0x2001_0200_0000_0000_0000_0000_0000_0000, Public), // 2001:200:: global unicast
    (0x2001_0db8_0000_0000_0000_0000_0000_0000, Reserved), // 2001:db8:: Documentation
    (0x2001_0db9_0000_0000_0000_0000_0000_0000, Public), // 2001:db9:: global unicast
    (0x2002_0000_0000_0000_0000_0000_0000_0000, Reserved), // 2002:: 6to4
    (0x2003_0000_0000_0000_0000_0000_0000_0000, Public), // 2003:: global unicast
    (0x2620_004f_8000_0000_0000_0000_0000_0000, Reserved), // 2620:4f:8000:: Direct Delegation AS112 Service
    (0x2620_004f_8001_0000_0000_0000_0000_0000, Public), // 2620:4f:8001:: global unicast
    (0x3ffe_0000_0000_0000_0000_0000_0000_0000, Reserved), // 3ffe:: RFC 3701, returned 6bone
    (0x3fff_1000_0000_0000_0000_0000_0000_0000, Public), // 3fff:1000:: global unicast
    (0x4000_0000_0000_0000_0000_0000_0000_0000, Reserved), // 4000:: unassigned
    (0xfc00_0000_0000_0000_0000_0000_0000_0000, Private), // fc00:: Unique-Local
    (0xfd00_0042_0000_0000_0000_0000_0000_0042, Metadata), // fd00:42::42 Scaleway
    (0xfd00_0042_0000_0000_0000_0000_0000_0043, Private), // fd00:42::43 Unique-Local
    (0xfd00_0ec2_0000_0000_0000_0000_0000_0023, Metadata), // fd00:ec2::23 AWS EKS pod identity
    (0xfd00_0ec2_0000_0000_0000_0000_0000_0024, Private), // fd00:ec2::24 Unique-Local
    (0xfd00_0ec2_0000_0000_0000_0000_0000_0254, Metadata), // fd00:ec2::254 AWS
    (0xfd00_0ec2_0000_0000_0000_0000_0000_0255, Private), // fd00:ec2::255 Unique-Local
    (0xfd20_00ce_0000_0000_0000_0000_0000_0254, Metadata), // fd20:ce::254 Google
    (0xfd20_00ce_0000_0000_0000_0000_0000_0255, Private), // fd20:ce::255 Unique-Local
    (0xfe00_0000_0000_0000_0000_0000_0000_0000, Reserved), // fe00:: unassigned
    (0xfe80_0000_0000_0000_0000_0000_0000_0000, LinkLocal), // fe80:: Link-Local Unicast
    (0xfe80_0000_0000_0000_0000_0000_a9fe_a9fe, Metadata), // fe80::a9fe:a9fe OpenStack
    (0xfe80_0000_0000_0000_0000_0000_a9fe_a9ff, LinkLocal), // fe80::a9fe:a9ff Link-Local Unicast
    (0xfec0_0000_0000_0000_0000_0000_0000_0000, Private), // fec0:: RFC 3879, deprecated site-local
    (0xff00_0000_0000_0000_0000_0000_0000_0000, Multicast), // ff00:: RFC 4291 section 2.7
];
