Feature: What a failure leaves behind
  Nothing: a call that fails has done nothing, and what can no longer be relied on says so.

  Background:
    Given a file "weights.bin" of 3000000 bytes

  @VR-MEM-04 @emulated
  Scenario Outline: The driver refuses <call> while a model is sealed
    When I open the device
    And the driver fails its next "<call>" with OUT_OF_MEMORY
    And I seal "weights.bin"
    Then it is refused with <code>
    And nothing is listed
    And all of the memory is free again

    Examples:
      | call              | code        |
      | memory.create     | OUT_OF_VRAM |
      | memory.map        | OUT_OF_VRAM |
      | memory.setAccess  | OUT_OF_VRAM |

  @VR-MEM-04 @emulated
  Scenario: The same model is sealed after a failure
    When I open the device
    And the driver fails its next "memory.create" with OUT_OF_MEMORY
    And I seal "weights.bin"
    And I seal "weights.bin"
    Then it succeeds

  @VR-DEV-05 @emulated
  Scenario: A device that breaks takes its shards with it
    Given "weights.bin" is sealed
    When the next launch of the kernel breaks the device
    And I verify "weights.bin"
    Then it is refused with DEVICE_LOST
    And "weights.bin" is listed as lost
    And device 0 is lost

  @VR-VER-01 @emulated
  Scenario: Memory that cannot be read is neither a pass nor a mismatch
    Given "weights.bin" is sealed
    When the memory of "weights.bin" has an uncorrectable error
    And I verify "weights.bin"
    Then it is refused with VRAM_UNREADABLE

  @VR-VER-06
  Scenario: A stopped worker seals nothing until somebody says why it may
    Given "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I verify "weights.bin"
    And I seal "weights.bin" as "again"
    Then it is refused with WORKER_STOPPED
    When I evict "weights.bin"
    And I resume because "the riser was replaced"
    And I seal "weights.bin" as "again"
    Then it succeeds

  @VR-VER-06
  Scenario: A worker stays stopped when the program starts again
    Given a state directory
    And "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I verify "weights.bin"
    And the program starts again
    And I seal "weights.bin"
    Then it is refused with WORKER_STOPPED
    And the audit log has worker_stopped

  @VR-VER-06
  Scenario: Where that is configured, a mismatch stops the shard alone
    Given a mismatch stops the shard alone
    And "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I verify "weights.bin"
    Then it is refused with MEASUREMENT_MISMATCH
    And the worker is running

  @VR-DEV-05 @emulated
  Scenario: One device of two that breaks leaves the other working
    Given 2 devices of 64 MiB
    When I seal "weights.bin" on device 0
    And the next launch of the kernel breaks the device
    And I verify "weights.bin"
    Then it is refused with DEVICE_LOST
    And device 1 is running
    When I seal "weights.bin" as "copy" on device 1
    Then it succeeds
