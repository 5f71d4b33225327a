Feature: What happened is on record
  Nothing is sealed, leased or resumed that is not on record, and who changes the record is found.

  Background:
    Given a state directory
    And a file "weights.bin" of 5000 bytes

  @VR-AUD-01
  Scenario: Sealing, verifying and evicting are on record
    Given "weights.bin" is sealed
    When I verify "weights.bin"
    And I evict "weights.bin"
    And the program starts again
    Then the audit log has vram_allocated
    And the audit log has vram_sealed
    And the audit log has seal_verified
    And the audit log has vram_deallocated
    And the audit log is intact

  @VR-AUD-01
  Scenario: A flipped bit is on record
    Given "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I verify "weights.bin"
    Then the audit log has seal_verification_failed
    And the audit log has worker_stopped

  @VR-AUD-01
  Scenario: Who resumes says why, and that is on record
    Given "weights.bin" is sealed
    When bit 0 of byte 0 of "weights.bin" flips in VRAM
    And I verify "weights.bin"
    And I resume because "memory test clean"
    Then the audit log gives the reason "memory test clean"

  @VR-AUD-01
  Scenario: A refused seal is on record
    Given "weights.bin" is sealed
    When I verify "weights.bin" presenting its seal with another mac
    Then it is refused with SEAL_REFUSED
    And the audit log has seal_refused

  @VR-AUD-02
  Scenario: A line that somebody changed is found, and named
    Given "weights.bin" is sealed
    When the program starts again
    And somebody changes line 2 of the audit log
    Then the audit log is not intact, and line 2 is named
