Feature: For a long time
  What is sealed and evicted over and over leaves nothing behind.

  @VR-MEM-03
  Scenario: Fifty times round, and all of the memory is free again
    Given a file "weights.bin" of 300000 bytes
    When I seal, verify and evict "weights.bin" 50 times
    Then nothing is listed
    And all of the memory is free again

  @VR-MEM-05 @emulated
  Scenario: A model that is larger than the device is refused before it is read
    Given a file "weights.bin" of 70000000 bytes
    And 1 device of 64 MiB
    When I seal "weights.bin"
    Then it is refused with OUT_OF_VRAM
    And all of the memory is free again

  @VR-MEM-05 @emulated
  Scenario: A plan says what would not fit, and moves nothing
    Given a file "weights.bin" of 70000000 bytes
    And 1 device of 64 MiB
    When I ask what "weights.bin" would need
    Then it succeeds
    And it would not fit
    And nothing is listed

  @VR-MEM-06
  Scenario: A model above the limit is refused
    Given a file "weights.bin" of 2000000 bytes
    And models of at most 1 MiB
    When I seal "weights.bin"
    Then it is refused with SOURCE_TOO_LARGE
