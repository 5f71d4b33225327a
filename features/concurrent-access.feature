Feature: Several at once
  Whoever comes at the same time gets one of the answers that somebody who came alone would get.

  @VR-MEM-04 @emulated
  Scenario: Of several models exactly those that fit are sealed
    Given a file "weights.bin" of 16000000 bytes
    And 1 device of 64 MiB
    When I open the device
    And I seal "weights.bin" 8 times at once
    Then as many succeed as fit into the memory, and the others are refused with OUT_OF_VRAM

  @VR-SEAL-04
  Scenario: Of several who seal under one name, one does
    Given a file "weights.bin" of 6000000 bytes
    When I seal "weights.bin" 4 times at once under one name
    Then 1 of them succeed, and the others are refused with SEAL_IN_PROGRESS
    And 1 shards are listed

  @VR-API-01
  Scenario: A shard that is leased is not evicted
    Given a file "weights.bin" of 5000 bytes
    And "weights.bin" is sealed
    When I lease "weights.bin"
    And I evict "weights.bin"
    Then it is refused with SHARD_BUSY
    When I release the lease
    And I evict "weights.bin"
    Then it succeeds
    And the memory was zeroed

  @VR-API-01
  Scenario: No lease is granted on bytes that changed
    Given a file "weights.bin" of 5000 bytes
    And "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I lease "weights.bin"
    Then it is refused with MEASUREMENT_MISMATCH
