Feature: Models of several shards
  A set is sealed as one: all of its members, or none.

  @VR-SEAL-06
  Scenario: A file that is cut covers all of its bytes
    Given a model "llama.safetensors" of 2 MiB
    When I seal "llama.safetensors" in 3 shards
    Then it succeeds
    And it covers 3 shards with one mac
    And their bytes together are those of "llama.safetensors"

  @VR-SEAL-06
  Scenario: Every member is verified
    Given a model "llama.safetensors" of 2 MiB
    And "llama.safetensors" is sealed in 2 shards
    When I verify every member of "llama.safetensors"
    Then it succeeds

  @VR-SEAL-06 @VR-VER-01
  Scenario: One flipped bit in one member fails the set
    Given a model "llama.safetensors" of 2 MiB
    And "llama.safetensors" is sealed in 2 shards
    When bit 1 of byte 4000 of "llama.safetensors/00002-of-00002" flips in VRAM
    And I verify every member of "llama.safetensors"
    Then it is refused with MEASUREMENT_MISMATCH

  @VR-SEAL-06 @VR-MEM-05 @emulated
  Scenario: A set that does not fit is not begun
    Given a model "llama.safetensors" of 68 MiB
    And 1 device of 64 MiB
    When I seal "llama.safetensors" in 2 shards
    Then it is refused with OUT_OF_VRAM
    And nothing is listed
    And all of the memory is free again
