Feature: VRAM only
  The policy says which facts the driver must state of a device and of every allocation. What breaks it is not sealed.

  @VR-POL-01
  Scenario: A device that keeps to it breaks no rule
    When I ask what the policy says
    Then it succeeds
    And no rule of it is broken

  @VR-POL-01 @VR-POL-03 @emulated
  Scenario: An integrated GPU, whose memory is the host's, is refused
    Given a driver that says "integrated" is 1
    When I open the device
    Then it is refused with POLICY_VIOLATION
    And the message names "integrated-gpu"

  @VR-POL-01 @VR-POL-03 @emulated
  Scenario: Memory that may be mapped writable is not sealed
    Given a driver that grants more than read access
    And a file "weights.bin" of 5000 bytes
    When I seal "weights.bin"
    Then it is refused with POLICY_VIOLATION
    And the message names "wrong-mapping-access"
    And nothing is listed

  @VR-POL-01
  Scenario: A seal says under which policy it was made
    Given a file "weights.bin" of 5000 bytes
    When I seal "weights.bin"
    Then it succeeds
    And the policy of its seal is the one in force

  @VR-MEM-01 @emulated
  Scenario: Memory that may move to the host is not sealed
    Given a file "weights.bin" of 5000 bytes
    And a driver that says "isManaged" is 1
    When I seal "weights.bin"
    Then it is refused with POLICY_VIOLATION
    And the message names "managed-memory"
    And nothing is listed
