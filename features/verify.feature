Feature: Verifying where the bytes lie
  A verification measures the bytes in the memory of the device again, and says what it found and where.

  Background:
    Given a model "llama.safetensors" of 2 MiB
    And "llama.safetensors" is sealed

  @VR-VER-01 @emulated
  Scenario: Bytes that did not change pass, all of them measured
    When I verify "llama.safetensors"
    Then it succeeds
    And every byte of "llama.safetensors" was measured
    And the report says that it read from emulated

  @VR-VER-01 @VR-VER-03
  Scenario: One flipped bit is found, and named to its byte and its tensor
    When bit 3 of byte 300000 of "llama.safetensors" flips in VRAM
    And I verify "llama.safetensors"
    Then it is refused with MEASUREMENT_MISMATCH
    And the damage is named to byte 300000
    And the damage is in "model.embed_tokens.weight"

  @VR-VER-03
  Scenario: Damage in the header is found as well
    When bit 0 of byte 9 of "llama.safetensors" flips in VRAM
    And I verify "llama.safetensors"
    Then it is refused with MEASUREMENT_MISMATCH
    And the damage is named to byte 9

  @VR-VER-06
  Scenario: A mismatch stops the worker of the device
    When bit 7 of byte 100000 of "llama.safetensors" flips in VRAM
    And I verify "llama.safetensors"
    Then it is refused with MEASUREMENT_MISMATCH
    And "llama.safetensors" is listed as mismatched
    And the worker is stopped

  @VR-VER-05 @emulated
  Scenario: A measurement that did nothing is neither a pass nor a mismatch
    When the next launch of the kernel is dropped
    And I verify "llama.safetensors"
    Then it is refused with MEASUREMENT_INVALID
    And "llama.safetensors" is listed as sealed
    And the worker is running

  Scenario: What was never sealed cannot be verified
    When I verify "other.safetensors"
    Then it is refused with SHARD_NOT_FOUND
