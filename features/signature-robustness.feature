Feature: Seals that are handed in
  A seal is good for the shard that it was made for, in the start that made it, and for nothing else. Whoever hands in
  another one changes nothing.

  Background:
    Given a file "one.bin" of 5000 bytes
    And a file "other.bin" of 5000 bytes
    And "one.bin" is sealed
    And "other.bin" is sealed

  @VR-VER-04
  Scenario: The seal of the shard is accepted
    When I verify "one.bin" presenting its seal
    Then it succeeds

  @VR-VER-04
  Scenario: The seal of another shard is refused
    When I verify "one.bin" presenting the seal of "other.bin"
    Then it is refused with SEAL_REFUSED
    And "one.bin" is listed as sealed

  @VR-VER-04 @VR-SEAL-02
  Scenario Outline: A seal with another <field> is refused
    When I verify "one.bin" presenting its seal with another <field>
    Then it is refused with SEAL_REFUSED
    And "one.bin" is listed as sealed

    Examples:
      | field        |
      | mac          |
      | digest       |
      | keyId        |
      | instanceId   |
      | sequence     |
      | byteLength   |
      | sealedAtMs   |
      | policyDigest |

  @VR-VER-04
  Scenario: The seal of an earlier start is refused
    Given a state directory
    And a file "again.bin" of 5000 bytes
    And "again.bin" is sealed
    When the program starts again
    And I seal "again.bin" as "again"
    And I verify "again" presenting the seal of "again.bin"
    Then it is refused with SEAL_REFUSED
