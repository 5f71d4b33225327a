Feature: Which device
  A GPU is asked for through the driver. Where there is none, an emulated one stands in, and everything says so.

  Background:
    Given a model "llama.safetensors" of 1 MiB

  @VR-DEV-01 @emulated
  Scenario: What the machine has, and what is missing, is said without any tool of NVIDIA's
    When I run the command "doctor --backend emulated --json"
    Then the command exits with 0
    And its checks are, among others, "driver-library device-nodes kernel-driver kernels backend"

  @VR-DEV-03 @emulated
  Scenario: An emulated device is announced, and stamped on what it made
    When I run the command "try --backend emulated llama.safetensors"
    Then the command exits with 0
    And it says "EMULATED"
    When I run the command "try --backend emulated --json --quiet llama.safetensors"
    Then its JSON document names the backend "emulated" and a device "EMU-"

  @VR-DEV-03 @emulated
  Scenario: Who asks for a GPU where there is none is refused, with the way to one
    When I run the command "try --backend cuda llama.safetensors"
    Then the command exits with 5
    And it says "DEVICE_UNUSABLE"
    And it says "install an NVIDIA GPU and its driver"

  @VR-DEV-04
  Scenario: A device is the same one after a restart, and by its UUID
    Given a state directory
    And "llama.safetensors" is sealed
    When the program starts again
    Then its device has the UUID of the seal of "llama.safetensors"

  @VR-DEV-04
  Scenario: A seal of another device is refused
    Given "llama.safetensors" is sealed
    When I verify "llama.safetensors" presenting its seal with another deviceUuid
    Then it is refused with SEAL_REFUSED
