/** Every bound of the system, with its arithmetic beside it. Units are in the names. */

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const LIMITS = {
  /** VMM granule of every NVIDIA GPU so far (`cuMemGetAllocationGranularity`, minimum). */
  granuleBytes: 2 * MIB,
  /** Default capacity of an emulated device. */
  emulatedBytes: 2 * GIB,
  /** At most this many emulated devices; a screen of them is enough for any test. */
  emulatedDevices: 16,
  /** Model size limit unless configured: 100 GB (VR-MEM-06). */
  maxModelBytes: 100_000_000_000,
  /** Staging ring: 4 slots, so that reading, hashing and copying overlap with one to spare. */
  ringSlots: 4,
  /** 4 × 32 MiB = 128 MiB pinned, half of the 256 MiB that sealing may take (VR-MEM-08). */
  ringSlotBytes: 32 * MIB,
  /**
   * A tree is measured in windows of this many bytes, or as many as the device has: 4 GiB ÷ 4096 × 32 = 32 MiB of
   * scratch (design §7), twice, because one window is enqueued while another is judged. Pinned it takes 1.1 MiB.
   */
  measureWindowBytes: 4 * GIB,
  /** Never promised to anyone: 64 MiB, or 1/32 of a small device. */
  headroomBytes: 64 * MIB,
  /** Header of a safetensors file (VR-IN-02); configurable up to the second figure. */
  safetensorsHeaderBytes: 16 * MIB,
  safetensorsHeaderBytesMax: 100 * MIB,
  /** Header of a GGUF file: the largest vocabularies take about 10 MiB. */
  ggufHeaderBytes: 64 * MIB,
  /**
   * Tensors in one file; published files have at most about 20,000. One takes about 160 bytes and its name (measured,
   * Node 20), and its header at least 27 in GGUF, 47 in safetensors. 40,000 stay within 2 × header + 32 MiB (measured:
   * at least 4 MiB below; with 50,000 it was 1 MiB).
   */
  tensorCount: 40_000,
  /** Bytes of all tensor names of one file, which are kept: 104 for each of 40,000. Real ones have about 50. */
  tensorNameBytes: 4 * MIB,
  /** Shards of one set; the largest published models have about 300. */
  setMembers: 4096,
  /** Names (design §5). */
  nameBytes: 1024,
  /** Ids (design §5). */
  idLength: 256,
  /** Damaged ranges and tensors in one journal entry (design §5: an entry stays under 32 KiB). */
  entryRanges: 64,
  /** What a caller may call a piece of work; a UUID has 36, a W3C trace parent 55. */
  correlationIdLength: 128,
  /** A required reader has this long to take an entry: a disk that stalls longer is no place for a log. */
  journalWaitMs: 10_000,
  /** A line of the audit log with its line feed (design §5): u16, so that a reader's buffer has a bound. */
  auditLineBytes: 65_535,
  /** `data` of a line stays below this; the rest of a line has at most 400 bytes. */
  auditDataBytes: 32 * KIB,
  /** Objects and arrays within each other in `data`; entries have 3. Bounds the recursion of the reader. */
  auditDataDepth: 8,
  /**
   * Bytes of JSON of one text in `data`, of one list (tensor names, what was lost, what others hold), and of all lists of
   * an entry: a failed verification has at most 64 × 64 + 16 KiB + 2 × 4 KiB + 2 KiB, a start 29 KiB, of which 64 devices
   * take 9.4 KiB and others share the rest, + 1 KiB, a lease 3 × 4 KiB + 2 KiB. All are less than 32 KiB.
   */
  auditTextBytes: 4 * KIB,
  auditListBytes: 16 * KIB,
  auditListsBytes: 29 * KIB,
  /** An epoch key is given up after 15 minutes or 65,536 entries (design §5). */
  auditEpochMs: 15 * 60_000,
  auditEpochEntries: 65_536,
  /** Epoch keys that one verification derives: 2^21 × 11 µs = 23 s; an epoch each 15 minutes for 59 years. */
  auditEpochsDerived: 2 ** 21,
  /** Lines of one segment, and their leaf hashes: a line has at least 240 bytes, and 64 MiB ÷ 240 × 32 = 8.9 MiB. */
  auditSegmentBytes: 64 * MIB,
  auditLeavesBytes: 9 * MIB,
  /** Kept log checkpoints, one for each epoch: 300 bytes × 35,040 a year, 25 years. */
  auditCheckpointsBytes: 256 * MIB,
  /** Entries that wait for the disk: 64 writers with 64 each; those that must proceed anyway may be twice as many. */
  auditQueueEntries: 4096,
  auditQueueAnyway: 8192,
  /** Lines written with one fdatasync. At least one line. */
  auditBatchBytes: MIB,
  /** A log checkpoint follows its entries within this; without entries there is one of our own each minute. */
  auditCheckpointMs: 1000,
  auditHeartbeatMs: 60_000,
  /** A full disk is tried again this often while entries wait for it. */
  auditRetryMs: 1000,
  /** Lines and leaf hashes of a log: 300 bytes a line, 28 million of them. Beyond it nothing new is sealed. */
  auditBytes: 8 * GIB,
  /** The end of the log is kept for what must proceed anyway: 50,000 lines. On disk, a file that can be given up. */
  auditReservedBytes: 16 * MIB,
  auditReserveFileBytes: MIB,
  /** Lines are kept for 365 days (VR-AUD-05). */
  auditRetentionDays: 365,
  /**
   * Refused requests: 8 of one kind are written in a minute, the others counted. One kind that never ends takes a line ×
   * 525,600 minutes × 430 bytes, with the leaf hash, = 0.2 GB a year.
   */
  auditRefusals: 8,
  auditRefusalsMs: 60_000,
  /**
   * Kinds of refused requests told apart: 2 types on 16 devices are 32, 6 failures and 10 error codes by 2 transports
   * are 32. Beyond them those of one type are one kind.
   */
  auditRefusalKinds: 64,
  /** Bytes of the audit log read at a time. At least one line. */
  auditReadBytes: MIB,
  /** Signatures on one note: 16 is what a reader has to accept (C2SP signed-note); the largest have 5 KiB. */
  noteSignatures: 16,
  noteBytes: 128 * KIB,
  /** Problems and epochs listed in a report on a log; beyond it only their number. */
  auditProblems: 64,
  /** Damaged ranges in one report, 2 GiB of them; beyond it only their number. Tensors are all listed. */
  reportedRanges: 4096,
  /** Damaged ranges compared with the source block by block, and damaged blocks listed. */
  locatedRanges: 64,
  /** Damaged byte offsets listed per 4 KiB block. */
  reportedOffsets: 16,
  /** Deadline of a wait on the device: 30 × the estimate at 1 GB/s, plus 10 s (design §8, issue of the service). */
  deviceFloorMs: 10_000,
  deviceMsPerGib: 30_000,
  /** Between two polls at most this much of it passes: a stall takes 10 polls, and the pause of a machine is none. */
  devicePollMs: 1000,
  /**
   * A call to a device's process has 30 × its estimate at 1 GB/s and this: three times the floor of a wait on the device,
   * so that the process, which can say more, runs into its own deadline first.
   */
  deviceCallFloorMs: 30_000,
  /** Until a device is open: a driver that starts, a context, a kernel compiled by the driver, the self-test. */
  deviceStartMs: 120_000,
  /** A process that was killed is gone within this, or will not go: then it hangs in the kernel. */
  deviceKillMs: 10_000,
  /** Between two signs of the same end (its channel, its exit, its own word) at most this much passes. */
  deviceEndMs: 1000,
  /** Calls to one device's process without an answer; 32 seals at once have 8 each. Releases are let in all the same. */
  deviceCallsInFlight: 256,
  /**
   * One message to or from a device's process: level 1 of 1 TiB. 70 GB have 4.3 MB, a table of 40,000 tensors with the
   * longest names about 10 MB.
   */
  deviceMessageBytes: 64 * MIB,
  /** A request to attach: names of 1 KiB, a lease, a digest. */
  attachRequestBytes: 16 * KIB,
  /** A reply: 40,000 tensors of 160 bytes beside their names, 4 MiB of them, of which JSON may make six times as much. */
  attachReplyBytes: 64 * MIB,
  /** Who connects says what it wants within this. */
  attachRequestMs: 10_000,
  /** Connections to the attach socket: each is a process that has mapped a model, and one descriptor here. */
  attachConnections: 1024,
  /** Views of an attachment, in the client: Linux gives a process 65,530 mappings, and a file has 40,000 tensors at most. */
  attachViews: 49_152,
  /** What a stream of the caller's is cut into on its way there. */
  deviceChunkBytes: 4 * MIB,
  /** A device's process is started again 5 times in 5 minutes; before that it waits 0.5 s, 1 s, … 8 s: 15.5 s in all. */
  deviceRestarts: 5,
  deviceRestartWindowMs: 300_000,
  deviceBackOffMs: 500,
  /** An idle process of a device is asked for a sign of life this often: one that hangs costs this and a floor. */
  deviceIdlePingMs: 10_000,
  /** What a killed service left behind lets go of its GPU within this, looked at this often. */
  deviceOrphanMs: 30_000,
  deviceOrphanPollMs: 100,
  /** GPUs that a driver may list: 8 of 7 MIG slices are 56. */
  devicesListed: 64,
  /** Processes NVML may list on one GPU: 4096 × 64 bytes of room = 256 KiB. */
  nvmlProcesses: 4096,
  /** Xids remembered per GPU, and taken per look: the newest. A GPU that had more has told enough. */
  nvmlXids: 256,
  /** NVML answers in milliseconds, or not at all on a sick GPU; its process is killed after this. */
  nvmlDeadlineMs: 2000,
  /** The first answer of its process includes starting it and NVML, which takes seconds where drivers are not kept. */
  nvmlStartMs: 10_000,
  /**
   * The GPU itself signs its attestation report, which is expected to take seconds (not measured). With the start of the
   * process 20 s: less than a call to a device's process has.
   */
  nvmlEvidenceMs: 10_000,
  /** After this many failures in a row NVML's process is not started for a minute: at most 1440 a day. */
  nvmlFailures: 3,
  nvmlBackOffMs: 60_000,
  /** Devices with a label in the metrics: 8 GPUs of 7 MIG slices are 56. All others are `other`. */
  metricsDevices: 64,
  /** Shards followed on each for their age: 128 GiB in shards of one granule; 65,536 × 100 bytes, and names in use. */
  metricsShards: 65_536,
  /** Leases followed on each: 65,536 ids of 32 letters, about 8 MB; a service has 4096 unless configured. */
  metricsLeases: 65_536,
  /** Exports followed on each: twice the connections to the attach socket, as one may end while another begins. */
  metricsExports: 2048,
  /** A configuration file, and tables within each other in it: the longest example has 6 KiB and 2. */
  configBytes: 256 * KIB,
  configDepth: 8,
  /** API tokens: one for each person or program, and room. 64 × at most 250 bytes, and a head. */
  tokens: 64,
  tokensFileBytes: 32 * KIB,
  /** Shards of the wanted set, in rows and their members: two of the largest sets. */
  wantedShards: 8192,
  /** A row's paths (4096 bytes), name (1024, twice when escaped) and seal (800): 8192 × 6.8 KiB = 54 MiB. */
  wantedFileBytes: 64 * MIB,
  /** What a service bears unless configured. Descriptors: 256 + 64 files read stay below the usual 1024. */
  serviceConnections: 256,
  serviceRequests: 64,
  /** Requests that wait for one of those places; each holds a body: 256 × 64 KiB = 16 MiB. */
  serviceWaiting: 256,
  /** The largest: a seal with a path of 4096 and a name of 1024 bytes, escaped to six times as many: 31 KiB. */
  serviceBodyBytes: 64 * KIB,
  /** All headers of a request; Node's own default. */
  serviceHeaderBytes: 16 * KIB,
  /** To receive a request: 64 KiB and 16 KiB of headers at 21 kbit/s. Between two requests on a connection. */
  serviceRequestMs: 32_000,
  serviceIdleMs: 60_000,
  /** Objects and arrays within each other in a body; the deepest, a verification with a seal, has 2. */
  serviceJsonDepth: 32,
  /** What still comes of a refused request is thrown away, so that the refusal is read; then the connection ends. */
  serviceDiscardBytes: MIB,
  serviceDiscardMs: 500,
  /** An answer of which nothing is taken for so long is given up, a feed too. */
  serviceStallMs: 30_000,
  /** Requests without an answer on one connection; 16 × 256 connections × a body. A browser sends one, a proxy few. */
  servicePipelined: 16,
  /** Feeds at once: a screen for each of some people. Each says so often that it is there. */
  serviceFeeds: 32,
  serviceFeedKeepAliveMs: 15_000,
  /** Entries of the journal that are kept for readers of the feed: about 300 bytes each, twice as many at most. */
  feedEntries: 4096,
  /** A device that does not say how much it has free within this is shown without: whoever asks is not kept waiting. */
  deviceAnswerMs: 1000,
  /** What is wanted and could not be sealed again for a passing reason is tried again after this. */
  restoreRetryMs: 10_000,
  /** One that failed is listed so long: whoever did not wait for it finds it there. */
  serviceFailedMs: 600_000,
  /** Operations that ended and are kept: a set of 4096 members has 4 MB of records. */
  serviceOperations: 64,
  /** Leases held at once: 64 engines on 64 shards. About 200 bytes each. */
  serviceLeases: 4096,
  /** A lease unless asked for otherwise, and the longest that may be asked for: whoever dies blocks eviction so long. */
  leaseDefaultMs: 60_000,
  leaseMaxMs: 3_600_000,
  /** How it is goes to systemd when it has changed, looked at this often; a device check that failed is repeated so. */
  notifyTickMs: 5000,
  /** Between two device checks for systemd where it does not watch: they only keep the line about the devices fresh. */
  notifyCheckMs: 30_000,
  /** A service that stops waits so long for leases before it revokes them; systemd kills after 90 s. */
  leaseDrainMs: 30_000,
  /** A statement in its envelope: a line of the log and a note (64 and 128 KiB), twice in base64, and 8 KiB of its own. */
  statementBytes: 512 * KIB,
  /** A name of 1024 bytes is the longest text in it. */
  statementTextLength: 1024,
  /** Clocks of two machines that are kept by NTP differ by less; a statement from further ahead is not believed. */
  statementSkewMs: 60_000,
  /** Files of a proof bundle: about 30, and results of GPUs. */
  proofFiles: 2000,
  /** One file of it; the list of 10,000 tests, each with a message of 4 KiB, has 40 MiB. */
  proofFileBytes: 64 * MIB,
  /** Names in its statement, failed and skipped: 2 × 500 × 300 bytes are 391 KiB in base64, below `statementBytes`. */
  proofNames: 500,
  proofNameBytes: 300,
} as const;
