@emulated
Feature: Attaching
  A program reads sealed weights in place, and says which weights it expects. Content decides, not names.

  Background:
    Given a model "llama.safetensors" of 1 MiB
    And a service
    And the service seals "llama.safetensors"

  @VR-API-05
  Scenario: Every tensor is read in place, and is what the file has
    When I attach to "llama.safetensors" expecting its digest
    Then it succeeds
    And every tensor is what the file "llama.safetensors" has
    And "llama.safetensors" was handed out 1 time, and 1 have it now
    When I detach
    Then "llama.safetensors" was handed out 1 time, and 0 have it now

  @VR-API-05
  Scenario: Whoever expects other weights is handed nothing
    When I attach to "llama.safetensors" expecting another digest
    Then it is refused with DIGEST_MISMATCH
    And "llama.safetensors" was handed out 0 times, and 0 have it now

  @VR-API-05 @VR-VER-01
  Scenario: Nobody is handed bytes that changed
    When bit 0 of byte 4000 of "llama.safetensors" flips in the service's VRAM
    And I attach to "llama.safetensors" expecting its digest
    Then it is refused with MEASUREMENT_MISMATCH
    And "llama.safetensors" was handed out 0 times, and 0 have it now
